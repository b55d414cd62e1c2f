-- Read lines of the log: what is counted of an event, without the texts. A line that is no event is all null.
SELECT event, id, batch, annotator, question, prompt_id, domain = 'safety' AS safety, grade, annotator_kind,
       time AS created_at, seconds, kind, risk_category, attack_vector, target,
       held_out_share, most_held_out, seed, chosen AS choice,
       responses[chosen + 1].model AS chosen_model, responses[2 - chosen].model AS rejected_model,
       responses[chosen + 1].temperature AS chosen_temperature,
       responses[2 - chosen].temperature AS rejected_temperature,
       responses[chosen + 1].safe AS chosen_safe, responses[2 - chosen].safe AS rejected_safe,
       lengths.unit AS unit, lengths.turns AS turns, lengths.prompt AS prompt_length,
       lengths.dialog AS dialog_length, lengths.responses[chosen + 1] AS chosen_length,
       lengths.responses[2 - chosen] AS rejected_length
FROM read_json($files, format = 'newline_delimited', ignore_errors = true, maximum_object_size = 134217728,
    columns = {event: 'VARCHAR', id: 'VARCHAR', batch: 'VARCHAR', annotator: 'VARCHAR', question: 'VARCHAR',
               prompt_id: 'VARCHAR', domain: 'VARCHAR', grade: 'VARCHAR', annotator_kind: 'VARCHAR', time: 'VARCHAR',
               seconds: 'FLOAT', kind: 'VARCHAR', risk_category: 'VARCHAR', attack_vector: 'VARCHAR', target: 'INT',
               held_out_share: 'DOUBLE', most_held_out: 'BIGINT', seed: 'BIGINT',
               chosen: 'INT', responses: 'STRUCT(model VARCHAR, temperature FLOAT, safe BOOLEAN)[]',
               lengths: 'STRUCT(unit VARCHAR, turns INT, prompt INT, dialog INT, responses INT[])'})
