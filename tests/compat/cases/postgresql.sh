# initdb and pgbench on a data folder inside the mount
# as: postgres
# keep: ./none
# seconds: 300
# served: initdb postgres
export PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
data=$out/data
initdb -D "$data" -A trust -N | grep -c ok
pg_ctl -D "$data" -o "-k $scratch -c listen_addresses=''" -w -l "$scratch/log" start >/dev/null || cat "$scratch/log"
createdb -h "$scratch" bench
pgbench -h "$scratch" -i -s 1 -q bench 2>/dev/null
pgbench -h "$scratch" -c 4 -j 2 -t 100 bench 2>/dev/null | grep -E 'actually processed|failed'
psql -h "$scratch" bench -At -c 'select count(*), sum(abalance) = (select sum(delta) from pgbench_history),
  (select count(*) from pgbench_history) from pgbench_accounts' -c 'vacuum full' -c 'checkpoint' \
  -c 'select count(*), sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts'
pg_ctl -D "$data" -m immediate stop | tr -d .  # one a second
pg_ctl -D "$data" -o "-k $scratch -c listen_addresses=''" -w -l "$scratch/log" start >/dev/null
psql -h "$scratch" bench -Atc 'select count(*) from pgbench_history'
pg_ctl -D "$data" -m fast -w stop | tr -d .
