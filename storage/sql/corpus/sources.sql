-- What became of each source's documents.
select
    source,
    count(*) as read,
    count(*) filter (where kept) as kept,
    coalesce(sum(length(text)) filter (where kept), 0)::bigint as characters
from (
    select source, text, true as kept from documents
    union all
    select source, text, false from dropped
)
group by source;
