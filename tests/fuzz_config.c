/* libFuzzer: any text is a configuration or an error, and what is read survives being written and read again. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "runtime/swin/config.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    swin_config c, again;
    swin_log_set(SWIN_LOG_QUIET);
    if (swin_config_parse(&c, (const char *)data, size, "fuzz") != SWIN_OK) return 0;
    char *text = swin_config_text(&c);
    if (!text) return 0;
    if (swin_config_parse(&again, text, strlen(text), "text") != SWIN_OK ||
        !swin_config_same_network(&c, &again))
        abort();
    free(text);
    return 0;
}
