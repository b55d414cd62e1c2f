-- Pairs of documents that share a band: each with the bucket's first and with the last few before it.
create table candidates as
with bands as (
    select ordinal, unnest(bands) as band from documents anti join gone using (ordinal)
),
buckets as (
    select list(ordinal order by ordinal) as members from bands group by band having count(*) > 1
),
places as (
    select members, unnest(range(2, len(members) + 1)) as later from buckets
)
select distinct members[later] as later, members[earlier] as earlier
from places, unnest(list_concat([1], range(greatest(2, later - getvariable('neighbours')), later))) as t(earlier);
