-- Llama 2 Table 9b: of English documents those with any term of an axis, and of these those with each term.
with english as (
    select
        identities,
        list_distinct(list_transform(identities, lambda name: split_part(name, '/', 1))) as axes
    from documents where language = 'en'
),
terms as (
    select split_part(name, '/', 1) as axis, split_part(name, '/', 2) as term, count(*) as documents
    from (select unnest(identities) as name from english) group by all
),
axes as (
    select axis, count(*) as documents from (select unnest(axes) as axis from english) group by axis
)
select
    axis,
    term,
    terms.documents,
    terms.documents / axes.documents as share,
    axes.documents / (select count(*) from english) as axis_share
from terms join axes using (axis)
order by axis, terms.documents desc, term;
