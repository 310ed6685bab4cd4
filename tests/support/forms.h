/* tests/support/forms.h - one network's parameters under the names of other libraries, as they save them. */
#ifndef SWIN_TESTS_FORMS_H
#define SWIN_TESTS_FORMS_H

#include "runtime/swin/weights.h"

typedef enum swin_form {
    SWIN_FORM_OFFICIAL,
    SWIN_FORM_TIMM,     /* merging at the head of the next stage, head.fc */
    SWIN_FORM_TIMM_OLD, /* merging at the end of its stage, head.fc */
    SWIN_FORM_TORCHVISION, /* features.N; V2: one bias of query, key and value, where noise stands for the key's */
    SWIN_FORM_HUGGING,   /* separate query, key, value; behind "swin." or "swinv2." */
    SWIN_FORM_HUGGING_5, /* the same since transformers 5 */
    SWIN_FORM_COUNT
} swin_form;

/* "official", ...: as swin_keys_source says it. */
const char *swin_form_source(swin_form form);

typedef struct swin_form_opts {
    bool no_head;     /* leave the head out */
    bool bare;        /* transformers: without the prefix */
    bool buffers;     /* with the attention's indices and, for V2, coordinates */
    const char *drop; /* leave this official key out */
    int extra_rows;   /* rows that a joint or split bias or weight has too many */
} swin_form_opts;

/* Write w as .safetensors. */
swin_status swin_form_write(const char *path, const swin_config *c, const swin_weights *w, swin_form form,
                            const swin_form_opts *o);

#endif
