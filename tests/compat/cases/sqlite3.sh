# rollback journal and write-ahead log, two writers at once
# keep: ./none
# served: sqlite3
for mode in delete wal; do
  db=$mode.db
  sqlite3 "$db" "pragma journal_mode=$mode; create table t(a integer primary key autoincrement, who text);"
  for who in x y; do
    for i in $(seq 30); do
      sqlite3 -cmd '.timeout 20000' "$db" "begin immediate; insert into t(who) values('$who'); commit;" || echo "failed"
    done &
  done
  wait
  sqlite3 "$db" "select who, count(*) from t group by who order by who; pragma integrity_check; pragma wal_checkpoint;
    delete from t where a % 3 = 0; vacuum; select count(*) from t;"
done
