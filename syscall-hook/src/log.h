/* Words for a person, only where SHORTFUSE_LOG asks for them; straight to descriptor 2. */
#ifndef SHORTFUSE_HOOK_LOG_H
#define SHORTFUSE_HOOK_LOG_H

#include <stdint.h>

/* Reads SHORTFUSE_LOG: debug is for here, everything else for the bypass. */
void sf_log_start(char **envp);
void sf_log_debug(const char *what);
void sf_log_debug_number(const char *what, int64_t number);

#endif
