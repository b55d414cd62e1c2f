-- How far each batch is.
SELECT batch, coalesce(target, 0) AS target, count(id)::INT AS annotations, count(DISTINCT question)::INT AS questions,
       count(DISTINCT annotator)::INT AS annotators, coalesce(skipped, 0)::INT AS skipped,
       coalesce(round(avg(seconds), 1), 0) AS seconds,
       CASE WHEN frozen_at IS NOT NULL THEN 'frozen ' || frozen_at[:10] WHEN target IS NOT NULL THEN 'open'
            ELSE 'imported' END AS state
FROM (SELECT id, batch, question, annotator, seconds, created_at FROM log.events WHERE event IN ('comparison', 'rating'))
FULL JOIN batches USING (batch)
LEFT JOIN (SELECT batch, count(*) AS skipped FROM skips GROUP BY batch) USING (batch)
GROUP BY batch, target, frozen_at, skipped ORDER BY min(created_at), batch;
