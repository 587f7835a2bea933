/* What the contexts of this build look like, compiled only for its type information: one variable of each type that a
 * policy may name. */
#include <shortfuse/policy.h>

struct sf_syscall_ctx own_syscall;
struct sf_fuse_ctx own_fuse;
struct sf_fuse_exit_ctx own_fuse_exit;
enum sf_verdict own_verdict;
