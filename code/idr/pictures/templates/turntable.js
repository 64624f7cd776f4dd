// Shows the scene beside this script: meshes, one at a time, and lines. Drag turns, wheel and pinch zoom.
(() => {
  "use strict";
  const box = document.currentScript.previousElementSibling;
  const scene = JSON.parse(box.querySelector("script").textContent);
  const canvas = box.querySelector("canvas"), bar = box.querySelector(".bar");
  const gl = canvas.getContext("webgl2", { alpha: true, antialias: true, premultipliedAlpha: true });
  if (!gl) {
    canvas.remove();
    bar.textContent = "This browser has no WebGL 2, which draws the object.";
    return;
  }

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const buffer = (target, content) => {
    const made = gl.createBuffer();
    gl.bindBuffer(target, made);
    gl.bufferData(target, content, gl.STATIC_DRAW);
    return made;
  };
  const compile = (kind, source) => {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    return shader;
  };
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, `#version 300 es
    layout(location=0) in vec3 point; layout(location=1) in vec3 normal; layout(location=2) in vec3 color;
    uniform mat3 turn; uniform vec2 focal; uniform float away; uniform vec3 shift;
    out vec3 n; out vec3 c;
    void main() {
      vec3 p = turn * (point + shift);
      n = turn * normal; c = color;
      float depth = away - p.z, near = 0.1, far = 1000.0;
      gl_Position = vec4(focal * p.xy, (depth * (far + near) - 2.0 * far * near) / (far - near), depth);
    }`));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER, `#version 300 es
    precision highp float;
    in vec3 n; in vec3 c; out vec4 shown; uniform float shape;
    void main() {
      vec3 u = normalize(n) * (gl_FrontFacing ? 1.0 : -1.0);
      float light = 0.42 + 0.4 * max(dot(u, normalize(vec3(-0.4, 0.6, 0.7))), 0.0) + 0.14 * u.y;
      shown = vec4(mix(c, vec3(0.93, 0.88, 0.8) * light, shape), 1.0);
    }`));
  gl.linkProgram(program);
  gl.useProgram(program);
  const uniform = (name) => gl.getUniformLocation(program, name);
  const places = Object.fromEntries(["turn", "focal", "away", "shift", "shape"].map((k) => [k, uniform(k)]));

  const bodies = scene.bodies.map((body) => {
    const array = gl.createVertexArray(), wide = body.wide;
    gl.bindVertexArray(array);
    buffer(gl.ARRAY_BUFFER, bytes(body.points));
    gl.vertexAttribPointer(0, 3, gl.SHORT, true, 0, 0);
    gl.enableVertexAttribArray(0);
    buffer(gl.ARRAY_BUFFER, bytes(body.normals));
    gl.vertexAttribPointer(1, 3, gl.BYTE, true, 0, 0);
    gl.enableVertexAttribArray(1);
    if (body.colors) {
      buffer(gl.ARRAY_BUFFER, bytes(body.colors));
      gl.vertexAttribPointer(2, 3, gl.UNSIGNED_BYTE, true, 0, 0);
      gl.enableVertexAttribArray(2);
    }
    const faces = bytes(body.faces);
    buffer(gl.ELEMENT_ARRAY_BUFFER, faces);
    return { array, count: faces.length / (wide ? 4 : 2), kind: wide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT,
      colored: !!body.colors, name: body.name };
  });
  const lines = scene.lines.map((line) => {
    const array = gl.createVertexArray(), content = bytes(line.points);
    gl.bindVertexArray(array);
    buffer(gl.ARRAY_BUFFER, content);
    gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    gl.enableVertexAttribArray(0);
    return { ...line, array, count: content.length / 12 };
  });

  const start = { yaw: scene.yaw, pitch: 0.25, away: 3.3 };
  const view = { ...start, body: 0, shape: !bodies.some((body) => body.colored) };
  const outside = lines.length ? Math.max(...lines.map((line) => line.reach)) : 1;
  if (!bodies.length) lines.forEach((line) => { line.on = true; });
  const distance = () => 3.3 * Math.max(1, ...lines.filter((line) => line.on).map((line) => line.reach));
  view.away = start.away = distance();
  let spinning = !matchMedia("(prefers-reduced-motion: reduce)").matches, asked = false, before = 0;

  const draw = (now) => {
    asked = false;
    if (spinning) { view.yaw += 0.0003 * Math.min(50, now - before || 0); request(); }
    before = now;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(canvas.clientHeight * scale));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const [sy, cy, sp, cp] = [Math.sin(view.yaw), Math.cos(view.yaw), Math.sin(view.pitch), Math.cos(view.pitch)];
    gl.uniformMatrix3fv(places.turn, false, [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy]);
    const focal = 3.1, aspect = width / height;
    gl.uniform2f(places.focal, focal * Math.min(1, 1 / aspect), focal * Math.min(1, aspect));
    gl.uniform1f(places.away, view.away);
    gl.uniform3f(places.shift, 0, 0, 0);
    const body = bodies[view.body];
    if (body) {
      gl.uniform1f(places.shape, view.shape || !body.colored ? 1 : 0);
      gl.bindVertexArray(body.array);
      gl.drawElements(gl.TRIANGLES, body.count, body.kind, 0);
    }
    gl.uniform1f(places.shape, 0);
    for (const line of lines) {
      if (!line.on) continue;
      gl.bindVertexArray(line.array);
      gl.vertexAttrib3f(1, 0, 0, 1); // lines have no normals; that of 0 would be NaN, which is black
      gl.vertexAttrib3f(2, ...[1, 3, 5].map((k) => parseInt(line.color.slice(k, k + 2), 16) / 255));
      gl.drawArrays(gl.LINES, 0, line.count);
    }
  };
  const request = () => { if (!asked) { asked = true; requestAnimationFrame(draw); } };
  const turn = (x, y) => {
    spinning = false;
    view.yaw += x;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + y));
    request();
  };
  const zoom = (factor) => {
    spinning = false;
    view.away = Math.max(1.2, Math.min(8 * Math.max(1, outside), view.away * factor));
    request();
  };

  const held = new Map();
  const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    spinning = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const old = held.size === 2 ? spread() : 0;
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (old) zoom(old / Math.max(1, spread()));
    else turn((event.clientX - last.x) * 0.008, (event.clientY - last.y) * 0.008);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => held.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // else the page would not scroll past
    event.preventDefault();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.003));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(view, start); request(); });
  const keys = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
  canvas.addEventListener("keydown", (event) => {
    if (keys[event.key]) turn(...keys[event.key]);
    else if (event.key === "+") zoom(0.9);
    else if (event.key === "-") zoom(1.1);
    else return;
    event.preventDefault();
  });

  const choice = (kind, group, text, on, act, color) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: kind, checked: on });
    if (group) input.name = group;
    input.addEventListener("change", () => { act(input.checked); request(); });
    label.append(input);
    if (color) { label.append(document.createElement("i")); label.lastChild.style.background = color; }
    label.append(text);
    bar.append(label);
  };
  const own = `body-${[...document.querySelectorAll(".turntable")].indexOf(box)}`;
  if (bodies.length > 1) {
    bodies.forEach((body, k) => choice("radio", own, body.name, !k, () => { view.body = k; }));
  }
  if (bodies.some((body) => body.colored)) {
    choice("checkbox", "", "shape without colors", false, (on) => { view.shape = on; });
  }
  for (const line of lines) {
    choice("checkbox", "", line.name, line.on, (on) => {
      line.on = on;
      view.away = start.away = distance();
    }, line.color);
  }
  const help = document.createElement("span");
  help.className = "quiet";
  help.textContent = "drag: turn · click, then wheel, or pinch: zoom · double click: reset";
  bar.append(help);
  new ResizeObserver(request).observe(canvas);
  request();
})();
