-- Comparisons by batch, in the shape of Llama 2's Table 26; its columns as in Table 6.
SELECT batch, count(*) AS comparisons, round(avg(turns), 1) AS turns,
       round(avg(dialog_length + (chosen_length + rejected_length) / 2), 1) AS example,
       round(sum(prompt_length) / sum(turns), 1) AS prompt,
       round(avg((chosen_length + rejected_length) / 2), 1) AS response, unit,
       count(*) FILTER (held_out) AS held_out
FROM preferences GROUP BY batch, unit ORDER BY min(created_at) NULLS FIRST, batch, unit;
