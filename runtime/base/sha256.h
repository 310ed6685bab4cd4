/* runtime/base/sha256.h - SHA-256 through OpenSSL's libcrypto. */
#ifndef SWIN_BASE_SHA256_H
#define SWIN_BASE_SHA256_H

#include <stddef.h>

#include "runtime/base/status.h"

#define SWIN_SHA256_BYTES 32
#define SWIN_SHA256_HEX   65 /* 64 lower-case digits and the final NUL */

typedef struct swin_sha256 swin_sha256;

swin_status swin_sha256_begin(swin_sha256 **h);
swin_status swin_sha256_add(swin_sha256 *h, const void *data, size_t n);
/* Write the digest and start afresh. */
swin_status swin_sha256_end(swin_sha256 *h, unsigned char digest[SWIN_SHA256_BYTES]);
void swin_sha256_free(swin_sha256 *h); /* NULL is fine */

void swin_sha256_hex(char hex[SWIN_SHA256_HEX], const unsigned char digest[SWIN_SHA256_BYTES]);

#endif
