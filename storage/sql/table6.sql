-- Comparisons by batch, in the shape of the paper's Table 6.
SELECT batch, kind, count(*) AS comparisons, round(avg(turns), 2) AS turns,
       round(avg(length(chosen) + length(rejected)) / 2, 1) AS response_characters,
       sum(held_out::INT) AS held_out
FROM comparisons GROUP BY ALL ORDER BY ALL;
