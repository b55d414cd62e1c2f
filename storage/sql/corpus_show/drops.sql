-- Why documents were dropped.
select step, reason, count(*) as documents
from dropped
where digest = $digest and ($source is null or source = $source)
group by step, reason
order by documents desc, step, reason;
