-- Coverage of the grid of risk category and attack vector (Llama 2 section 4.2.1): what nobody asked shows as 0.
WITH asked AS (SELECT risk_category, attack_vector, safety_bin FROM preferences WHERE safety AND risk_category <> '')
SELECT risk_category, attack_vector, count(asked.safety_bin) AS comparisons,
       round(100.0 * count(*) FILTER (safety_bin = 'both unsafe') / nullif(count(asked.safety_bin), 0), 1)
           AS both_unsafe_percent
FROM (SELECT DISTINCT risk_category FROM asked) CROSS JOIN (SELECT DISTINCT attack_vector FROM asked)
LEFT JOIN asked USING (risk_category, attack_vector) GROUP BY ALL ORDER BY ALL;
