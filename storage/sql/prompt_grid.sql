-- The prompt grid of risk category and attack vector (Llama 2 section 4.2.1): prompts of each cell, 0 where there is none.
WITH asked AS (SELECT * FROM prompts WHERE safety)
SELECT risk_category, attack_vector, count(id) FILTER (split = 'train') AS train,
       count(id) FILTER (split = 'held_out') AS held_out
FROM (SELECT DISTINCT risk_category FROM asked) CROSS JOIN (SELECT DISTINCT attack_vector FROM asked)
LEFT JOIN asked USING (risk_category, attack_vector) GROUP BY ALL ORDER BY ALL;
