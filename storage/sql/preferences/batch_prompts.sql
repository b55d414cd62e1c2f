-- A batch's prompts, how many comparisons each has, and whether an earlier batch had it.
SELECT prompt_id, count(DISTINCT question) AS comparisons,
       prompt_id IN (SELECT prompt_id FROM annotations WHERE batch IN (SELECT unnest($earlier::VARCHAR[]))) AS seen
FROM annotations WHERE batch = $batch GROUP BY prompt_id;
