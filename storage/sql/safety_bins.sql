-- Safety bins of the comparisons. Llama 2 section 3.2.1 prints 18, 47 and 35 percent.
SELECT safety_bin, count(*) AS comparisons, round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent
FROM comparisons WHERE safety GROUP BY ALL ORDER BY ALL;
