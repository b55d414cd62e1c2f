-- The texts of the log's comparisons, read from the log itself: the index has none.
SELECT id, dialog::VARCHAR AS dialog, responses[chosen + 1].text AS chosen, responses[2 - chosen].text AS rejected
FROM read_json($files, format = 'newline_delimited', ignore_errors = true, maximum_object_size = 134217728,
    columns = {event: 'VARCHAR', id: 'VARCHAR', dialog: 'JSON', chosen: 'INT', responses: 'STRUCT("text" VARCHAR)[]'})
WHERE event = 'comparison'
