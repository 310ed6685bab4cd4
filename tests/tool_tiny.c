/* tool_tiny FOLDER IMAGES - a tiny model and a data set, as folder and as zip, for shell tests. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "runtime/base/file.h"
#include "tests/support/tiny.h"

static swin_status make(const char *folder, int images)
{
    char *zip = swin_format("%s/zipped", folder);
    mkdir(folder, 0755);
    mkdir(zip, 0755);
    swin_status st = swin_tiny_write_model(folder, 1);
    if (st == SWIN_OK) st = swin_tiny_write_images(folder, images, 2);
    if (st == SWIN_OK) st = swin_tiny_write_zip(zip, images, 2);
    free(zip);
    return st;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: tool_tiny FOLDER IMAGES\n");
        return 2;
    }
    return swin_report(make(argv[1], atoi(argv[2])));
}
