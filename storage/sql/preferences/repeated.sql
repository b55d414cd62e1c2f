-- Questions that several annotators answered, as counts of the signed scale's eight points: 1 is the first response
-- significantly better, 8 the second. A question is a hash here: texts are slow to group by.
SELECT hash(batch, question) AS question, any_value(batch) AS batch, any_value(safety) AS safety,
       if(choice = 0, step, 9 - step) AS category, count(*) AS r
FROM (SELECT *, CASE grade WHEN 'significantly better' THEN 1 WHEN 'better' THEN 2 WHEN 'slightly better' THEN 3
                           WHEN 'negligibly better' THEN 4 END AS step FROM events WHERE event = 'comparison')
WHERE step IS NOT NULL AND hash(batch, question) IN (
    SELECT hash(batch, question) AS asked FROM events WHERE event = 'comparison' AND grade IS NOT NULL
    GROUP BY asked HAVING count(*) > 1)
GROUP BY ALL
