-- Why documents were dropped.
SELECT step, reason, count(*) AS documents, any_value(id) AS example
FROM dropped GROUP BY ALL ORDER BY documents DESC;
