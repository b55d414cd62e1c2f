-- Llama 2 Table 9a: English documents with pronouns, and of these those with each group; empty if none has any.
with english as (
    select list_concat(
        ['English'],
        pronouns,
        if(list_has_any(pronouns, ['she', 'he', 'unspecified']), ['gendered'], []),
        if(list_has_any(pronouns, ['1st', '2nd', '3rd']), ['any person'], [])
    ) as groups
    from documents where language = 'en'
),
counts as (
    select "group", count(*) as documents
    from (select unnest(groups) as "group" from english)
    group by "group"
),
parts(place, "group", whole) as (
    values
        (1, 'gendered', 'English'),
        (2, 'she', 'gendered'), (3, 'he', 'gendered'), (4, 'unspecified', 'gendered'),
        (5, 'any person', 'English'),
        (6, '1st', 'any person'), (7, '2nd', 'any person'), (8, '3rd', 'any person')
)
select p."group", coalesce(c.documents, 0) as documents, coalesce(c.documents, 0) / w.documents as share
from parts p
left join counts c on c."group" = p."group"
left join counts w on w."group" = p.whole
where exists (from counts where "group" <> 'English')
order by place;
