-- Comparisons by set, in the shape of Llama 2's Table 6: an example is the dialog and a response, a prompt one turn
-- of the user. Lengths in words or in a tokenizer's tokens, as the unit says.
SELECT CASE WHEN grouping(collection) = 1 THEN 'Total' ELSE collection END AS collection,
       count(*) AS comparisons, round(avg(turns), 1) AS turns,
       round(avg(dialog_length + (chosen_length + rejected_length) / 2), 1) AS example,
       round(sum(prompt_length) / sum(turns), 1) AS prompt,
       round(avg((chosen_length + rejected_length) / 2), 1) AS response, unit
FROM (SELECT *, if(annotator_kind = 'import', batch, 'ours, by ' || annotator_kind) AS collection FROM preferences)
GROUP BY GROUPING SETS ((collection, unit), (unit)) ORDER BY unit, grouping(collection), collection;
