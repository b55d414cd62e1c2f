-- How often the longer response is chosen, and how much longer it is; equal lengths are left out of the percentage.
SELECT annotator_kind, if(safety, 'safety', 'helpfulness') AS domain, count(*) AS comparisons,
       round(100.0 * count(*) FILTER (chosen_length > rejected_length)
             / nullif(count(*) FILTER (chosen_length <> rejected_length), 0), 1) AS longer_chosen_percent,
       round(avg(chosen_length), 1) AS chosen, round(avg(rejected_length), 1) AS rejected, unit
FROM preferences GROUP BY ALL ORDER BY ALL;
