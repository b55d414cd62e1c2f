-- Every document under its ordinal; those of sites with much personal data; those that repeat an earlier one.
create view documents as
select start + "row" as ordinal, "group", "row", id, fingerprint, bands, minima, sketch, host, personal
from signatures join offsets on filename = file;

create table gone as
select ordinal, null::bigint as kept, 'personal sites' as step, null::float as similarity
from documents
where host <> ''
qualify count(*) over (partition by host) >= getvariable('site_documents')
    and avg(personal) over (partition by host) >= getvariable('site_data');

insert into gone
with first as (
    select
        ordinal,
        min(ordinal) over (partition by id) as same_id,
        min(ordinal) over (partition by fingerprint) as same_text
    from documents anti join gone using (ordinal)
)
select
    ordinal,
    if(same_id < ordinal, same_id, same_text) as kept,
    if(same_id < ordinal, 'duplicate id', 'exact duplicates') as step,
    1::float as similarity
from first
where same_id < ordinal or same_text < ordinal;
