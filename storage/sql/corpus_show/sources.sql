-- What became of each source's documents.
select
    source,
    count(*) filter (where kept) as kept,
    count(*) filter (where not kept) as dropped,
    coalesce(sum(characters) filter (where kept), 0)::bigint as characters_kept
from (
    select digest, source, true as kept, length(text) as characters from documents
    union all
    select digest, source, false, 0 from dropped
)
where digest = $digest and ($source is null or source = $source)
group by source
order by source;
