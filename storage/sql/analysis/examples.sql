-- Some of the documents of each reason to drop, chosen by a hash of their ids.
select step, reason, chosen.id, chosen.detail, chosen.text
from (
    select step, reason, unnest(arg_min(
        {id: id, detail: left(detail, 500), text: left(text, 500)},
        (md5(id), filename, file_row_number),
        getvariable('examples')
    )) as chosen
    from dropped group by step, reason
)
order by step, reason, md5(chosen.id);
