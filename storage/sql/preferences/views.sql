CREATE MACRO safety_bin_of(safety, chosen_safe, rejected_safe) AS
       CASE WHEN NOT safety OR chosen_safe IS NULL OR rejected_safe IS NULL THEN ''
            WHEN chosen_safe AND rejected_safe THEN 'both safe'
            WHEN chosen_safe THEN 'chosen safe, other unsafe'
            WHEN rejected_safe THEN 'chosen unsafe, other safe'
            ELSE 'both unsafe' END;

-- What the log holds, as tables; `comparisons` are those of artifacts, with their texts.
CREATE VIEW annotations AS
SELECT * EXCLUDE (event, target, held_out_share, most_held_out, seed),
       safety_bin_of(safety, chosen_safe, rejected_safe) AS safety_bin
FROM log.events WHERE event = 'comparison';

CREATE VIEW skips AS
SELECT question, batch, annotator, created_at FROM log.events WHERE event = 'skip';

CREATE VIEW batches AS
SELECT id AS batch, max(target) AS target, min(created_at) FILTER (event = 'opened') AS opened_at,
       min(created_at) FILTER (event = 'frozen') AS frozen_at, max(held_out_share) AS held_out_share,
       max(most_held_out) AS most_held_out, max(seed) AS seed
FROM log.events WHERE event IN ('opened', 'frozen') GROUP BY id;

-- Every comparison once, without its texts: those of artifacts, and those of the log whose batch is not frozen yet.
CREATE VIEW preferences AS
SELECT * EXCLUDE (dialog, chosen, rejected) FROM comparisons
UNION ALL BY NAME
SELECT * EXCLUDE (question, choice, seconds), 1 AS annotations FROM annotations
WHERE batch NOT IN (SELECT batch FROM batches WHERE frozen_at IS NOT NULL);
