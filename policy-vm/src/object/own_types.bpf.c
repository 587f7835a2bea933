/* What the contexts of this build look like, compiled only for its type information: one variable of each type that a
 * policy may name. */
#include <shortfuse/trace.h>

struct sf_syscall_ctx own_syscall;
struct sf_fuse_ctx own_fuse;
struct sf_fuse_exit_ctx own_fuse_exit;
struct sf_call_ctx own_call;
enum sf_verdict own_verdict;
