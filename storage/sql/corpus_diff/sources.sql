-- What became of each source's documents in two corpora.
select
    source,
    count(*) filter (where digest = $a and kept) as kept_a,
    count(*) filter (where digest = $b and kept) as kept_b,
    count(*) filter (where digest = $a and not kept) as dropped_a,
    count(*) filter (where digest = $b and not kept) as dropped_b
from (
    select digest, source, true as kept from documents
    union all
    select digest, source, false from dropped
)
where digest in ($a, $b)
group by source
order by source;
