// landmarks: a circle for a point of the fixed image, a cross for its counterpart, mapped to the fixed image, a line between both
const inSlice = (voxel, view) => view.through < 0 || Math.abs(voxel[view.through] - at[view.through]) <= 0.5;

const counterparts = (name) => {
  if (viewer.dataset.mode === "side") return landmarks[name === "fixed" ? "" : name];
  return landmarks[viewer.dataset.mode === "error" ? "after" : viewer.dataset.top];
};

const landmarkShapes = ([x, y], [u, v], own, other, reach) => { // paths and their colors
  const circle = new Path2D(), mark = new Path2D(), line = new Path2D();
  if (own) circle.arc(x, y, reach, 0, 2 * Math.PI);
  if (other) {
    for (const sign of [-1, 1]) {
      mark.moveTo(u - reach, v - sign * reach);
      mark.lineTo(u + reach, v + sign * reach);
    }
  }
  if (own && other) {
    line.moveTo(x, y);
    line.lineTo(u, v);
  }
  return [[line, "#fff"], [circle, color("--fixed_mask")], [mark, color("--moving_mask")]];
};

const drawLandmarks = (context, view, point, name, scale) => {
  if (!points || !points.checked) return;
  const others = counterparts(name);
  for (const [index, voxel] of landmarks.fixed.entries()) {
    const other = others ? others[index] : voxel, shown = [inSlice(voxel, view), Boolean(others) && inSlice(other, view)];
    for (const [path, stroke] of landmarkShapes(point(voxel), point(other), ...shown, 5 * scale)) {
      for (const [style, width] of [["#000", 4], [stroke, 2]]) {
        context.strokeStyle = style;
        context.lineWidth = width * scale;
        context.stroke(path);
      }
    }
  }
};

const landmarkText = () => { // the landmark at the point that is shown, so that it is told in words
  if (!points || !points.checked) return "";
  const found = landmarks.fixed.flatMap((voxel, index) => (voxel.every((v, k) => Math.abs(v - at[k]) <= 1) ? [index + 1] : []));
  return found.length ? `; landmark ${found.join(", ")}` : "";
};
