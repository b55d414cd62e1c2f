-- How sure the annotators were, batch by batch (the paper's Figure 25).
SELECT batch, grade, count(*) AS comparisons,
       round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY batch), 1) AS percent
FROM comparisons GROUP BY batch, grade ORDER BY ALL;
