-- Agreement of the annotators who were asked the same, on the signed scale of eight points (four grades either way):
-- Gwet's AC2 with ordinal weights; .37 to .55 for helpfulness and .70 to .95 for safety in Llama 2.
WITH totals AS MATERIALIZED (SELECT question, sum(r)::INT AS n FROM log.repeated GROUP BY question),
pairs AS (
    SELECT any_value(a.batch) AS batch, any_value(a.safety) AS safety, any_value(n) AS n,
           sum(a.r * b.r * (1 - (abs(a.category - b.category) + 1) * abs(a.category - b.category) / 56)) AS weighted,
           sum(a.r * b.r) FILTER ((a.category < 5) = (b.category < 5)) AS same_side
    FROM log.repeated AS a JOIN log.repeated AS b USING (question) JOIN totals USING (question) GROUP BY question),
observed AS (
    SELECT batch, safety, count(*) AS questions, sum(n)::INT AS annotations,
           avg((weighted - n) / (n * (n - 1))) AS pa, avg((same_side - n) / (n * (n - 1))) AS same_choice
    FROM pairs GROUP BY ALL),
shares AS (
    SELECT batch, safety, category, sum(r / n) AS share
    FROM log.repeated JOIN totals USING (question) GROUP BY ALL),
chance AS (  -- 49 is the sum of the 8 x 8 weights
    SELECT batch, safety, 49 * sum(share / questions * (1 - share / questions)) / (8 * 7) AS pe
    FROM shares JOIN observed USING (batch, safety) GROUP BY ALL)
SELECT batch, if(safety, 'safety', 'helpfulness') AS domain, questions, annotations,
       round(100 * same_choice, 1) AS same_choice_percent, round((pa - pe) / (1 - pe), 3) AS ac2
FROM observed JOIN chance USING (batch, safety) ORDER BY ALL;
