#include <math.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "tests/demo/shapes.h"

#define PI 3.14159265358979323846

typedef struct color {
    double c[3]; /* 0 .. 1 */
} color;

typedef struct canvas {
    int width, height;
    float rgb[DEMO_MAX_SIDE * DEMO_MAX_SIDE * 3];
} canvas;

typedef enum texture { SOLID, STRIPES, CHECKER, DOTS, TEXTURES } texture;

/* One shape on the canvas. */
typedef struct layer {
    int label;
    double cx, cy, radius; /* pixels */
    double angle, stretch; /* turned by angle, then stretched along x */
    color fill, second;    /* of the texture */
    texture pattern;
    double frequency; /* periods over the shape's radius */
    double outline;   /* half width of an outline as a share of the radius; 0: filled */
    double opacity;
} layer;

static double between(swin_rng *r, double lo, double hi)
{
    return lo + (hi - lo) * swin_rng_uniform(r);
}
static int chance(swin_rng *r, double p)
{
    return swin_rng_uniform(r) < p;
}
static double clamp01(double v)
{
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

/* Near normal with unit deviation, from sums alone: no library function whose last bit may differ between systems. */
static double grain(swin_rng *r)
{
    double sum = swin_rng_uniform(r);
    sum += swin_rng_uniform(r);
    sum += swin_rng_uniform(r);
    return (sum - 1.5) * 2;
}

/* One draw a statement, here and below: C leaves the order of draws inside an expression to the compiler. */
static color color_random(swin_rng *r)
{
    color c;
    for (int k = 0; k < 3; k++) c.c[k] = swin_rng_uniform(r);
    return c;
}

static double color_distance(color a, color b)
{
    /* Weighted as the eye does, since some pictures are stored gray. */
    return fabs(0.3 * (a.c[0] - b.c[0]) + 0.59 * (a.c[1] - b.c[1]) + 0.11 * (a.c[2] - b.c[2]));
}

/* A color whose brightness differs from `from` by at least `least`. */
static color color_apart(swin_rng *r, color from, double least)
{
    color c = color_random(r);
    for (int i = 0; i < 50 && color_distance(c, from) < least; i++) c = color_random(r);
    return c;
}

/* What most shapes of a class are painted in: learned early, and wrong often enough that the shape has to count. */
static const color usual[DEMO_CLASSES] = {
    { { 0.95, 0.85, 0.35 } }, { { 0.85, 0.15, 0.15 } }, { { 0.95, 0.55, 0.1 } }, { { 0.9, 0.3, 0.6 } },
    { { 0.55, 0.4, 0.2 } },   { { 0.2, 0.65, 0.3 } },   { { 0.5, 0.85, 0.9 } },  { { 0.25, 0.3, 0.8 } },
    { { 0.9, 0.9, 0.85 } },   { { 0.55, 0.2, 0.7 } },
};

static color color_near(swin_rng *r, color c, double reach)
{
    for (int k = 0; k < 3; k++) c.c[k] = clamp01(c.c[k] + between(r, -reach, reach));
    return c;
}

/* The subject's paint: its class's usual one, or any; never one that its background hides. */
static color color_subject(swin_rng *r, int label, color behind, double contrast, double hardness)
{
    if (chance(r, 1 - 0.35 * hardness)) {
        color c = color_near(r, usual[label], 0.15 + 0.15 * hardness);
        for (int i = 0; i < 10 && color_distance(c, behind) < contrast; i++)
            c = color_near(r, usual[label], 0.15 + 0.15 * hardness);
        if (color_distance(c, behind) >= contrast) return c;
    }
    return color_apart(r, behind, contrast);
}

static double pattern_at(const layer *l, double u, double v)
{
    const double fu = u * l->frequency - floor(u * l->frequency),
                 fv = v * l->frequency - floor(v * l->frequency);
    switch (l->pattern) {
    case STRIPES:
        return fu < 0.5;
    case CHECKER:
        return (fu < 0.5) == (fv < 0.5);
    case DOTS:
        return (fu - 0.5) * (fu - 0.5) + (fv - 0.5) * (fv - 0.5) < 0.09;
    default:
        return 0;
    }
}

static void canvas_blend(canvas *cv, int x, int y, const color *c, double share)
{
    float *p = cv->rgb + ((size_t)y * (size_t)cv->width + (size_t)x) * 3;
    for (int k = 0; k < 3; k++) p[k] = (float)(p[k] + (c->c[k] - p[k]) * share);
}

static void canvas_layer(canvas *cv, const layer *l)
{
    const double co = cos(l->angle), si = sin(l->angle), reach = l->radius * l->stretch * 1.5 + 2;
    const int x0 = (int)fmax(0, l->cx - reach), x1 = (int)fmin(cv->width, l->cx + reach);
    const int y0 = (int)fmax(0, l->cy - reach), y1 = (int)fmin(cv->height, l->cy + reach);
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) {
            const double dx = (x + 0.5 - l->cx) / l->radius, dy = (y + 0.5 - l->cy) / l->radius;
            const double u = (dx * co + dy * si) / l->stretch, v = dy * co - dx * si;
            double d = demo_shape_distance(l->label, u, v);
            if (l->outline > 0) d = fabs(d + l->outline) - l->outline;
            const double cover = clamp01(0.5 - d * l->radius) * l->opacity;
            if (cover > 0) canvas_blend(cv, x, y, pattern_at(l, u, v) > 0 ? &l->second : &l->fill, cover);
        }
}

/* A bar across the picture through (cx, cy). */
static void canvas_bar(canvas *cv, double cx, double cy, double angle, double half, const color *c,
                       double opacity)
{
    const double nx = -sin(angle), ny = cos(angle);
    for (int y = 0; y < cv->height; y++)
        for (int x = 0; x < cv->width; x++) {
            const double d = fabs((x + 0.5 - cx) * nx + (y + 0.5 - cy) * ny) - half;
            const double cover = clamp01(0.5 - d) * opacity;
            if (cover > 0) canvas_blend(cv, x, y, c, cover);
        }
}

#define GRID 9 /* knots on a side of the background's slow brightness changes */

static void canvas_background(canvas *cv, swin_rng *r, color a, color b, double roughness)
{
    double knot[GRID][GRID];
    const double tilt = between(r, 0, 2 * PI), tx = cos(tilt), ty = sin(tilt);
    for (int i = 0; i < GRID; i++)
        for (int j = 0; j < GRID; j++) knot[i][j] = roughness * (swin_rng_uniform(r) - 0.5);
    for (int y = 0; y < cv->height; y++)
        for (int x = 0; x < cv->width; x++) {
            const double gx = (double)x / cv->width, gy = (double)y / cv->height;
            const double kx = gx * (GRID - 1), ky = gy * (GRID - 1);
            const int i = (int)ky, j = (int)kx;
            const double fy = ky - i, fx = kx - j;
            const double slow = (knot[i][j] * (1 - fx) + knot[i][j + 1] * fx) * (1 - fy) +
                                (knot[i + 1][j] * (1 - fx) + knot[i + 1][j + 1] * fx) * fy;
            const double t = clamp01(0.5 + (gx - 0.5) * tx + (gy - 0.5) * ty);
            float *p = cv->rgb + ((size_t)y * (size_t)cv->width + (size_t)x) * 3;
            for (int k = 0; k < 3; k++) p[k] = (float)(a.c[k] + (b.c[k] - a.c[k]) * t + slow);
        }
}

static layer layer_random(swin_rng *r, int label, double radius, color fill, double hardness)
{
    layer l = { .label = label, .radius = radius, .fill = fill, .opacity = 1 };
    l.angle = between(r, 0, 2 * PI);
    l.stretch = 1 + between(r, 0, 0.35) * hardness;
    l.pattern = chance(r, 0.45) ? SOLID : (texture)swin_rng_below(r, TEXTURES);
    l.frequency = between(r, 1.5, 4);
    l.second = color_apart(r, fill, 0.05);
    for (int k = 0; k < 3; k++) l.second.c[k] = 0.6 * fill.c[k] + 0.4 * l.second.c[k];
    /* An outlined disc would be a ring. */
    if (label != 2 && label != 6 && chance(r, 0.25)) l.outline = between(r, 0.05, 0.1);
    return l;
}

static void draw_clutter(canvas *cv, swin_rng *r, double side, double hardness)
{
    const int n = (int)(hardness * between(r, 2, 9));
    for (int i = 0; i < n; i++) {
        const double radius = side * between(r, 0.05, 0.12);
        const int label = (int)swin_rng_below(r, DEMO_CLASSES);
        const color fill = color_random(r);
        layer l = layer_random(r, label, radius, fill, hardness);
        l.cx = between(r, 0, cv->width);
        l.cy = between(r, 0, cv->height);
        l.opacity = between(r, 0.5, 1);
        canvas_layer(cv, &l);
    }
}

static void draw_bars(canvas *cv, swin_rng *r, const layer *over, double hardness)
{
    const int n = (int)(hardness * between(r, 0, 3.5));
    for (int i = 0; i < n; i++) {
        const color c = color_random(r);
        const double cx = over->cx + over->radius * between(r, -0.8, 0.8);
        const double cy = over->cy + over->radius * between(r, -0.8, 0.8);
        const double angle = between(r, 0, PI), half = over->radius * between(r, 0.04, 0.13);
        canvas_bar(cv, cx, cy, angle, half, &c, between(r, 0.6, 1));
    }
}

static void draw_subject(canvas *cv, swin_rng *r, int label, color behind, double hardness)
{
    const double side = cv->width < cv->height ? cv->width : cv->height;
    const double contrast = fmax(0.04, 0.4 - 0.3 * hardness);
    const double radius = side *
                          between(r, 0.36 - 0.2 * fmin(hardness, 1.4), 0.4 - 0.08 * fmin(hardness, 1.4));
    const color fill = color_subject(r, label, behind, contrast, hardness);
    layer l = layer_random(r, label, radius, fill, hardness);
    l.cx = cv->width * 0.5 + side * 0.1 * between(r, -1, 1);
    l.cy = cv->height * 0.5 + side * 0.1 * between(r, -1, 1);
    l.opacity = 1 - 0.3 * fmin(hardness, 1) * swin_rng_uniform(r);
    draw_clutter(cv, r, side, hardness);
    canvas_layer(cv, &l);
    draw_bars(cv, r, &l, hardness);
}

/* Gain, lift and noise, then bytes. */
static void canvas_develop(demo_picture *p, const canvas *cv, swin_rng *r, double hardness)
{
    const double gain = between(r, 0.75, 1.25), lift = between(r, -0.1, 0.1);
    const double noise = hardness * between(r, 0.02, 0.14);
    const size_t n = (size_t)cv->width * (size_t)cv->height * 3;
    for (size_t i = 0; i < n; i++)
        p->rgb[i] = (uint8_t)(255 * clamp01((cv->rgb[i] - 0.5) * gain + 0.5 + lift + noise * grain(r)) + 0.5);
}

static void to_gray(demo_picture *p)
{
    const size_t n = (size_t)p->width * (size_t)p->height;
    for (size_t i = 0; i < n; i++) {
        uint8_t *q = p->rgb + 3 * i;
        memset(q, (299 * q[0] + 587 * q[1] + 114 * q[2] + 500) / 1000, 3);
    }
}

swin_status demo_draw(demo_picture *p, int label, uint64_t seed, double hardness)
{
    if (label < 0 || label >= DEMO_CLASSES)
        return swin_fail(SWIN_ERR_VALUE, "demo image: no class %d", label);
    if (!(hardness >= 0 && hardness <= 4))
        return swin_fail(SWIN_ERR_VALUE, "demo image: hardness %g", hardness);
    static _Thread_local canvas cv;

    swin_rng r = { seed };
    cv.width = p->width = 128 + (int)swin_rng_below(&r, DEMO_MAX_SIDE - 128 + 1);
    cv.height = p->height = 128 + (int)swin_rng_below(&r, DEMO_MAX_SIDE - 128 + 1);
    p->quality = 55 + (int)swin_rng_below(&r, 41);
    p->gray = chance(&r, 0.05);

    const color a = color_random(&r), other = color_random(&r);
    color b = a;
    for (int k = 0; k < 3; k++) b.c[k] = 0.6 * a.c[k] + 0.4 * other.c[k];
    canvas_background(&cv, &r, a, b, 0.15 + 0.35 * hardness);
    color middle = a;
    for (int k = 0; k < 3; k++) middle.c[k] = 0.5 * (a.c[k] + b.c[k]);
    draw_subject(&cv, &r, label, middle, hardness);
    canvas_develop(p, &cv, &r, hardness);
    if (p->gray) to_gray(p);
    return SWIN_OK;
}
