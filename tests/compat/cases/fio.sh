# every way to read and write, contents verified when written, and once more by another process
# keep: ./none
# served: fio
# seconds: 300
for engine in sync psync vsync pvsync2 libaio io_uring posixaio mmap; do
  options=(--name=v --ioengine=$engine --size=4m --bs=4k --verify=crc32c --iodepth=8 --numjobs=2 --minimal)
  for run in --rw=randrw --rw=write "--rw=write --verify_only" --rw=randread --rw=read; do
    fio "${options[@]}" $run --do_verify=1 >"$scratch/fio" 2>&1
    echo "$engine $run $? $(grep -ciE 'verify.*fail|error' "$scratch/fio")"
  done
  rm -f v.*
done
