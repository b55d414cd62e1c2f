-- What was altered in documents that stayed.
select change, count(*) as documents
from (
    select unnest(list_distinct(changes)) as change
    from documents
    where digest = $digest and ($source is null or source = $source)
)
group by change
order by documents desc, change;
