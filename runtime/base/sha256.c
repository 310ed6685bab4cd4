#include "runtime/base/sha256.h"

#include <openssl/evp.h>
#include <stdlib.h>

struct swin_sha256 {
    EVP_MD_CTX *md;
};

swin_status swin_sha256_begin(swin_sha256 **h)
{
    *h = calloc(1, sizeof **h);
    if (!*h) return swin_fail(SWIN_ERR_MEM, "no memory for a hash");
    (*h)->md = EVP_MD_CTX_new();
    if ((*h)->md && EVP_DigestInit_ex((*h)->md, EVP_sha256(), NULL) == 1) return SWIN_OK;
    swin_sha256_free(*h);
    *h = NULL;
    return swin_fail(SWIN_ERR_MEM, "libcrypto offers no SHA-256");
}

swin_status swin_sha256_add(swin_sha256 *h, const void *data, size_t n)
{
    if (n == 0 || EVP_DigestUpdate(h->md, data, n) == 1) return SWIN_OK;
    return swin_fail(SWIN_ERR_MEM, "libcrypto's SHA-256 failed");
}

swin_status swin_sha256_end(swin_sha256 *h, unsigned char digest[SWIN_SHA256_BYTES])
{
    if (EVP_DigestFinal_ex(h->md, digest, NULL) == 1 && EVP_DigestInit_ex(h->md, EVP_sha256(), NULL) == 1)
        return SWIN_OK;
    return swin_fail(SWIN_ERR_MEM, "libcrypto's SHA-256 failed");
}

void swin_sha256_free(swin_sha256 *h)
{
    if (!h) return;
    EVP_MD_CTX_free(h->md);
    free(h);
}

void swin_sha256_hex(char hex[SWIN_SHA256_HEX], const unsigned char digest[SWIN_SHA256_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SWIN_SHA256_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[64] = 0;
}
