#!/bin/sh
# Prints the state of a Grid Engine job for Snakemake: running, success or failed.
job=$1

if known=$(qstat -j "$job" 2>&1); then
    case $known in
        *"error reason"*)
            # It would wait for an administrator, and could then overwrite the next attempt.
            qdel "$job" > /dev/null
            echo failed ;;
        *) echo running ;;
    esac
    exit
fi
case $known in
    *"do not exist"*) ;;
    # The master does not respond; the job may still be running.
    *) echo running; exit ;;
esac

# Accounting records a job seconds after its end. After five minutes it never will.
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
