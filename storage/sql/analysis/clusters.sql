-- Documents that stand for others, with how many they are together. One that went may itself be named for others
-- (the first of two equal texts may be near an earlier one): such links are few, and followed to one that stays.
with recursive named as (
    select kept_id, count(*) as repeats from dropped where kept_id is not null group by kept_id
),
links as (
    select id, kept_id from dropped
    where id <> kept_id  -- a repeated id names itself
    and id in (select kept_id from named)
),
followed(kept_id, repeats) as (
    select kept_id, repeats from named where kept_id in (select id from links)
    union all
    select links.kept_id, repeats from followed join links on followed.kept_id = id
)
select kept_id, 1 + sum(repeats)::bigint as size
from (from named union all from followed)
where kept_id not in (select id from links)
group by kept_id
order by size desc, kept_id;
