# an allocator preloaded beside the hook
# served: python3 git
export LD_PRELOAD=${LD_PRELOAD:+$LD_PRELOAD:}/usr/lib/x86_64-linux-gnu/libjemalloc.so.2
python3 -c '
import os
n = sum(len(open(os.path.join(r, f), "rb").read()) for r, d, fs in os.walk(os.environ["project"]) for f in fs)
print(n, os.environ["LD_PRELOAD"].count("jemalloc"))'
git -c core.fsmonitor=false diff --no-index --stat "$project/include" "$project/include"; echo $?
