// Asks with Java's own HttpClient, whole and streamed: java Ask OPENAI_URL -> two lines of base64, or of the error.

import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Base64;

public class Ask {
    public static void main(String[] words) {
        String content = "Please write to ada.lovelace@example.com \\ud83c\\udf0a Gr\\u00fc\\u00dfe\\u2028!";
        // Over plain HTTP Java asks for an upgrade to HTTP/2, and uvicorn then loses the body; the ASGI mount is asked so.
        HttpClient client = words[0].startsWith("https:") ? HttpClient.newHttpClient()
            : HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        for (String stream : new String[] {"false", "true"}) {
            String body = "{\"model\": \"gpt-4o\", \"messages\": [{\"role\": \"user\", \"content\": \"" + content
                + "\"}], \"stream\": " + stream + "}";
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0] + "/v1/chat/completions"))
                .header("authorization", "Bearer sk-any").header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body)).build();
            try (InputStream in = client.send(request, HttpResponse.BodyHandlers.ofInputStream()).body()) {
                ByteArrayOutputStream whole = new ByteArrayOutputStream();
                in.transferTo(whole);
                System.out.println(Base64.getEncoder().encodeToString(whole.toByteArray()));
            } catch (Exception error) {
                System.out.println("failed: " + error);
            }
        }
    }
}
