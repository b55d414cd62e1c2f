-- Safety context distillation by risk category and attack vector: answers that the gate kept, and their gain in safety.
SELECT substr(digest, 1, 8) AS distilled, risk_category, attack_vector, count(*) AS prompts,
       count(*) FILTER (kept) AS kept, count(*) FILTER (NOT kept) AS rejected,
       round(avg(original_safety), 3) AS before, round(avg(safety), 3) AS behind_preprompt
FROM distilled GROUP BY ALL ORDER BY ALL;
