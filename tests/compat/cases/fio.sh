# every way to read and write, contents verified
# keep: ./none
# seconds: 300
for engine in sync psync vsync pvsync2 libaio io_uring posixaio mmap; do
  fio --name=v --ioengine=$engine --rw=randrw --size=4m --bs=4k --verify=crc32c --do_verify=1 --iodepth=8 --numjobs=2 \
    --minimal >"$scratch/fio" 2>&1
  echo "$engine $? $(grep -ciE 'verify.*fail|error' "$scratch/fio")"
  rm -f v.*
done
