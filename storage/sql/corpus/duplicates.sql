-- Every document under its ordinal, and those that repeat an earlier one's id or text.
create view documents as
select start + "row" as ordinal, "group", "row", id, fingerprint, bands, minima
from signatures join offsets on filename = file;

create table gone as
with first as (
    select
        ordinal,
        min(ordinal) over (partition by id) as same_id,
        min(ordinal) over (partition by fingerprint) as same_text
    from documents
)
select
    ordinal,
    if(same_id < ordinal, same_id, same_text) as kept,
    if(same_id < ordinal, 'duplicate id', 'exact duplicates') as step,
    1::float as similarity
from first
where same_id < ordinal or same_text < ordinal;
