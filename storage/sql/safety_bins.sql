-- Safety bins of the comparisons. Llama 2 section 3.2.1 prints 18, 47 and 35 percent, and leaves the fourth out.
SELECT safety_bin, count(*) AS comparisons, round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent
FROM preferences WHERE safety_bin <> '' GROUP BY ALL ORDER BY ALL;
