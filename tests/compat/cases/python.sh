# Python's own tests of files and processes
# seconds: 500
# keep: ./none
# served: python3
export TMPDIR=$out
for t in test_os test_shutil test_pathlib test_mmap test_subprocess test_tempfile test_glob test_fcntl test_mailbox \
         test_zipimport test_dbm test_posix; do
  python3 -m test -v "$t" 2>&1 | grep -E ' \.\.\. ' | grep -v test_memory | sort >"$scratch/$t"
  echo "$t: $(grep -c ' ok$' "$scratch/$t") ok, $(grep -cE ' (FAIL|ERROR)$' "$scratch/$t") failed"
  grep -E ' (FAIL|ERROR)$' "$scratch/$t"
done
exit 0
