-- The comparisons of a batch as models learn from them: a question's choice is that of most of its annotators, its
-- grade the median of theirs, the less sure of two; a label is that of most, unsafe when they are equal.
WITH made AS (
    SELECT *, least(chosen, rejected) AS first, chosen = first AS votes_first,
           if(votes_first, rejected, chosen) AS second,
           CASE grade WHEN 'significantly better' THEN 1 WHEN 'better' THEN 2 WHEN 'slightly better' THEN 3
                      WHEN 'negligibly better' THEN 4 END AS step,
           if(votes_first, chosen_safe, rejected_safe) AS first_safe,
           if(votes_first, rejected_safe, chosen_safe) AS second_safe
    FROM annotations JOIN texts USING (id) WHERE batch = $batch),
asked AS (
    SELECT question, first, second, min(id) AS id, any_value(prompt_id) AS prompt_id, any_value(batch) AS batch,
           any_value(kind) AS kind, any_value(safety) AS safety, any_value(dialog) AS dialog,
           any_value(risk_category) AS risk_category, any_value(attack_vector) AS attack_vector,
           any_value(unit) AS unit, any_value(turns) AS turns, any_value(prompt_length) AS prompt_length,
           any_value(dialog_length) AS dialog_length, max(created_at) AS created_at,
           string_agg(annotator, ', ' ORDER BY annotator) AS annotator, any_value(annotator_kind) AS annotator_kind,
           count(*) FILTER (votes_first) AS for_first, count(*) AS annotations,
           list(step ORDER BY step) FILTER (votes_first AND step IS NOT NULL) AS first_steps,
           list(step ORDER BY step) FILTER (NOT votes_first AND step IS NOT NULL) AS second_steps,
           sum(if(first_safe, 1, -1)) FILTER (first_safe IS NOT NULL) > 0 AS first_safe,
           sum(if(second_safe, 1, -1)) FILTER (second_safe IS NOT NULL) > 0 AS second_safe,
           any_value(if(votes_first, chosen_model, rejected_model)) AS first_model,
           any_value(if(votes_first, rejected_model, chosen_model)) AS second_model,
           any_value(if(votes_first, chosen_temperature, rejected_temperature)) AS first_temperature,
           any_value(if(votes_first, rejected_temperature, chosen_temperature)) AS second_temperature,
           any_value(if(votes_first, chosen_length, rejected_length)) AS first_length,
           any_value(if(votes_first, rejected_length, chosen_length)) AS second_length
    FROM made GROUP BY question, first, second),
decided AS (
    SELECT *, 2 * for_first > annotations AS wins, if(wins, first_steps, second_steps) AS steps,
           if(wins, first_safe, second_safe) AS chosen_safe, if(wins, second_safe, first_safe) AS rejected_safe
    FROM asked)
SELECT id, prompt_id, batch, kind, safety, dialog, if(wins, first, second) AS chosen, if(wins, second, first) AS rejected,
       if(wins, first_model, second_model) AS chosen_model, if(wins, second_model, first_model) AS rejected_model,
       if(wins, first_temperature, second_temperature) AS chosen_temperature,
       if(wins, second_temperature, first_temperature) AS rejected_temperature,
       ['significantly better', 'better', 'slightly better', 'negligibly better'][steps[len(steps) // 2 + 1]] AS grade,
       safety_bin_of(safety, chosen_safe, rejected_safe) AS safety_bin,
       chosen_safe, rejected_safe, annotator, annotator_kind, annotations::INT AS annotations, risk_category,
       attack_vector, created_at, turns, unit, prompt_length, dialog_length,
       if(wins, first_length, second_length) AS chosen_length, if(wins, second_length, first_length) AS rejected_length,
       2 * for_first = annotations AS tie
FROM decided ORDER BY id;
