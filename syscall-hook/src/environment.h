/* The variables of this library: shortfuse-environment(7). */
#ifndef SHORTFUSE_HOOK_ENVIRONMENT_H
#define SHORTFUSE_HOOK_ENVIRONMENT_H

/* Says once on standard error which SHORTFUSE_* have a value that means nothing, and puts one in its place: children
 * inherit that and do not say it again. SHORTFUSE_DISABLE becomes 1, all others become empty. */
void sf_environment_check(char **envp);

#endif
