-- How sure the annotators were, batch by batch (Llama 2's Figure 25): its drift says how near the answers have come.
SELECT batch, grade, count(*) AS comparisons,
       round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY batch), 1) AS percent
FROM preferences WHERE grade IS NOT NULL GROUP BY batch, grade
ORDER BY min(min(created_at)) OVER (PARTITION BY batch) NULLS FIRST, batch,
         array_position(['significantly better', 'better', 'slightly better', 'negligibly better'], grade);
