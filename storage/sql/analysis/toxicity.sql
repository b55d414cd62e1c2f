-- Documents by toxicity, in bins 0.05 wide that begin at `score`; empty where none was measured.
with counts as (
    select least(floor(20 * toxicity), 19)::bigint as bin, count(*) as documents
    from documents where toxicity is not null group by bin
)
select
    bin / 20 as score,
    coalesce(documents, 0) as documents,
    coalesce(documents, 0) / sum(documents) over () as share
from range(20) bins(bin) left join counts using (bin)
where exists (from counts)
order by bin;
