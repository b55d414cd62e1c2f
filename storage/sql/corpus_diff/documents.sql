-- Documents whose fate or text differs between two corpora, by what differs, with five ids of each.
-- Step and reason are null for what is kept. An id that was read twice counts as kept if one of the two is.
with kept as (
    select digest, id, hash(text) as text, null as step, null as reason
    from documents
    where digest in ($a, $b)
),
gone as (
    select digest, id, hash(text) as text, step, reason
    from dropped
    where digest in ($a, $b)
),
fates as (
    from kept
    union all
    from gone anti join kept using (digest, id)
    qualify row_number() over (partition by digest, id order by step, reason, text) = 1
),
a as (from fates where digest = $a),
b as (from fates where digest = $b)
select
    case
        when b.id is null then 'only in A'
        when a.id is null then 'only in B'
        when a.step is null and b.step is not null then 'B drops, A keeps'
        when b.step is null and a.step is not null then 'A drops, B keeps'
        when (a.step, a.reason) is distinct from (b.step, b.reason) then 'dropped for another reason'
        else 'another text'
    end as change,
    a.step as step_a,
    a.reason as reason_a,
    b.step as step_b,
    b.reason as reason_b,
    count(*) as documents,
    min(coalesce(a.id, b.id), 5) as examples
from a
full outer join b using (id)
where
    a.id is null
    or b.id is null
    or a.text <> b.text
    or (a.step, a.reason) is distinct from (b.step, b.reason)
group by all
order by change, documents desc, step_a, reason_a, step_b, reason_b;
