#include "tests/demo/shapes.h"

#include <math.h>

#define PI 3.14159265358979323846

const char *const demo_class_names[DEMO_CLASSES] = { "crescent", "cross", "disc",   "heart", "hexagon",
                                                     "pentagon", "ring",  "square", "star",  "triangle" };

static double box(double x, double y, double half_width, double half_height)
{
    return fmax(fabs(x) - half_width, fabs(y) - half_height);
}

/* A regular polygon with one corner up; `inner` is the distance of its sides. */
static double polygon(double x, double y, int sides, double inner)
{
    const double step = 2 * PI / sides;
    const double angle = atan2(x, -y) + PI / sides; /* 0 half-way between two corners */
    const double turn = (floor(angle / step) + 0.5) * step - PI / sides;
    return x * sin(turn) - y * cos(turn) - inner;
}

/* Five rays: the edge runs straight from a tip at radius 1 to a notch at radius `notch`. */
static double star(double x, double y, double notch)
{
    const double step = 2 * PI / 5, r = hypot(x, y);
    double angle = atan2(x, -y);
    angle = fabs(angle - step * floor(angle / step + 0.5)); /* 0 at a tip, step / 2 at a notch */
    const double px = r * cos(angle), py = r * sin(angle);
    const double nx = notch * cos(step / 2), ny = notch * sin(step / 2);
    const double len = hypot(1 - nx, ny);
    return ((px - 1) * ny + py * (1 - nx)) / len;
}

/* Two discs and the square that stands on its corner between them, cut off below the notch. */
static double heart(double x, double y)
{
    const double lobes = hypot(fabs(x) - 0.42, y + 0.32) - 0.5;
    const double sides = fmax(fabs(x) + y - 0.807, fabs(x) - y - 0.74) * 0.70710678;
    return fmin(lobes, fmax(sides, -0.45 - y));
}

double demo_shape_distance(int label, double x, double y)
{
    const double r = hypot(x, y);
    switch (label) {
    case 0:
        return fmax(r - 0.95, 0.78 - hypot(x - 0.45, y));
    case 1:
        return fmin(box(x, y, 0.95, 0.3), box(x, y, 0.3, 0.95));
    case 2:
        return r - 0.9;
    case 3:
        return heart(x, y);
    case 4:
        return polygon(x, y, 6, 0.82);
    case 5:
        return polygon(x, y, 5, 0.8);
    case 6:
        return fabs(r - 0.7) - 0.22;
    case 7:
        return box(x, y, 0.78, 0.78);
    case 8:
        return star(x, y, 0.45);
    default:
        return polygon(x, y, 3, 0.55);
    }
}
