#!/bin/sh
# Says what Grid Engine knows of a job in Snakemake's words: running, success or failed.
job=$1

if known=$(qstat -j "$job" 2>&1); then
    case $known in
        *"error reason"*)
            # It would wait for an administrator, and then write what its next try writes.
            qdel "$job" > /dev/null
            echo failed ;;
        *) echo running ;;
    esac
    exit
fi
case $known in
    *"do not exist"*) ;;
    # The master does not answer; the job may well go on without it.
    *) echo running; exit ;;
esac

# The record of an ended job comes seconds later than its end. In five minutes it does, or never will.
ended=.snakemake/sge_logs/$job.ended
if record=$(qacct -j "$job" 2> /dev/null); then
    rm -f "$ended"
    echo "$record" | awk 'BEGIN { failed = 1 }
        $1 == "failed" { failed = $2 }
        $1 == "exit_status" { status = $2 }
        END { print (failed == 0 && status == 0) ? "success" : "failed" }'
elif [ -n "$(find "$ended" -mmin +5 2> /dev/null)" ]; then
    echo "no record of job $job: qacct must work where snakemake runs" >&2
    rm -f "$ended"
    echo failed
else
    [ -e "$ended" ] || : > "$ended"
    echo running
fi
